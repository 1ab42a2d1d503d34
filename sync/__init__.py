"""Forwarding from the local store to upstreams: `worker.SyncWorker`."""
