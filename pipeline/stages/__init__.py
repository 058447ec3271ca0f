"""What a loop does with a message: ingest, encode, fuse, decide, sink."""
