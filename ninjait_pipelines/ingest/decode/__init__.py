"""From messages to points: the contract of each queue, and third-party formats. `message.decode` is the entrance."""
