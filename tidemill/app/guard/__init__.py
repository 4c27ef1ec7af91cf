"""Who may ask the app for anything, and what it gives away of itself."""
