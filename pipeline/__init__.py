"""What flows, and when: messages, time, admission, stages, links and logs. No Ray, no torch, no GPU."""
