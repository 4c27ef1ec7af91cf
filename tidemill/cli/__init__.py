"""The command line: results to stdout, progress and logs to stderr.

Exit codes: 0 done, 1 the work failed or an invariant is broken, 2 the input is wrong.
"""
