"""The hot path: one turn of a walker, in hand-written SQL under the execution's row lock.

`facts`     what never changes about a run, and its compiled plan
`judging`   pure: what follows from what an agent said
`opening`   what becomes of decided blocks, and of those a person decided about
`asking`    the questions put to people
`run`       one locked run in one transaction: settle, close edges, open, end
`turns`     settle + advance + claim as one transaction
`walker`    claims, calls, and takes the next turn
`watch`     heartbeats, deadlines and late forks of one process
`profile`   how fast blocks have been
"""
