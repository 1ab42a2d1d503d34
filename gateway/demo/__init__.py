"""The demonstration: a whole gateway on simulated devices, in one process.

devices.py   a weather station on a pseudo-terminal, a garden of MQTT devices
broker.py    the MQTT broker between them and the gateway
link.py      the way to the upstream, which is slow and can be cut
play.py      what happens when
view.py      what one sees of it
"""
