"""The main job from end to end: devices, a broker, a serial line, the gateway as a process, a database behind a link.

    devices.py           what sends, and its own record of what it sent
    gateway_process.py   the product, run and killed as a process
    faults.py            a plan of faults, and the thread that carries it out
    judge.py             what was sent against what the database holds
    site.py              all of them wired together for one run

The product is run, not imported; only what it rejected is read through its API, after the run.
"""
