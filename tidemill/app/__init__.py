"""The app, in which people try a table's model, look at its rows, and say what is right.

Gradio and what it brings are imported where the app is built, after its telemetry is switched off.
"""
