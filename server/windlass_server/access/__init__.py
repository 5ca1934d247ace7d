"""Who may call, how much each caller may ask for, and in which order they are served."""
