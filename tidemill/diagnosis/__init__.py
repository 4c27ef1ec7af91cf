"""What `tidemill doctor` finds out: what works on this machine, what is slow and why, and what mends it.

A check never takes longer than its bound, whatever it asks; one that does is a finding itself.
"""
