"""The server: an embedder and a gallery over HTTP, for many clients at once, and the page on it."""
