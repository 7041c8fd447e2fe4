"""The embedded default: photos of synthetic identities, and the whole road walked on them."""
