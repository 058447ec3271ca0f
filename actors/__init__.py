"""Where it runs: thin Ray shells around pipeline's stages, and the same graph inline. Reading the folder is reading the flow."""
