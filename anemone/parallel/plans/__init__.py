"""How networks are laid out over a mesh: one table for each architecture."""
