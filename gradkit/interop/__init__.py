"""Other libraries' ways of asking for what gradkit does."""
