"""Label Studio: what its projects offer, what it sends, and what it wants back."""
