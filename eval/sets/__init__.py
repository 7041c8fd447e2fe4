"""What is verified: pairs, packed sets, templates and ready embeddings, and how they are joined."""
