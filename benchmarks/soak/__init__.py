"""Ingest under load: `make soak`. Publishers outrun the drains, servers and drains are killed; nothing may be lost.

On a stack of its own (RabbitMQ and InfluxDB from `make servers`), bounded in time:
1. One drain alone empties a first fill of the queue: its samples per second are the rate.
2. For `--minutes`, publishers send more than the rate, and much more in bursts: single samples, batches of 200, and
   some that are days late; a twentieth broken, a twentieth twice. Two drains are started again and again, as the sensor
   starts them. Meanwhile every server is restarted and drains are killed, at moments that follow from `--seed`.
3. The publishers stop, the drains empty the queue, and the accounts are compared: what was published, the ledger, the
   points in the store, the quarantine. Anything that does not balance is printed, and the exit code is 1.
4. One drain against two on the same amount, in turn (`--scaling`: nothing but that).

    python -m benchmarks.soak --minutes 2 --chart soak.svg
"""
