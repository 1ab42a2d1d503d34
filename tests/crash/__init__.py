"""What a power cut may leave of the local store, and whether the product opens it.

recorder.c, recording.py   what a process did to the store's files, call by call
workload.py                that process: a theme's deeds, each with a mark where it begins and where it is promised
disk.py                    the files that a power cut after any of those calls may leave
promises.py                from the marks: what the store must hold by then, and what it may
judge.py                   opens such files with the product and compares
campaign.py                all of it for the themes and seeds asked for; `python -m tests.crash`
"""
