"""The same job on other runtimes, each written as a good user of it would, so that Chiasm can be held beside them."""
