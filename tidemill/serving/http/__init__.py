"""What is around every route: who is let in, what a body may be, how long an answer is waited for, and its form."""
