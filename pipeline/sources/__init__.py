"""From a device, the network, a file or a log to packets with times."""
