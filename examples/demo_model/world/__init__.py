"""The little world of the demo model: each module generates one kind of text."""
