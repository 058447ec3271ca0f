"""One hop between two processes, on every link that is compared: a sender on a schedule, a receiver that notes when what came."""
