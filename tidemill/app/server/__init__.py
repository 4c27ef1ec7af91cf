"""The app as a page that is served: all tabs together, behind the gate."""
