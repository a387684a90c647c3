"""A fuzzer: valid files of every kind that binmat reads are damaged by chance and opened.

Nothing but a :class:`binmat.errors.BinmatError` of one line may come of it: no other error, no hang, no code run, no
process that dies, no more memory than the limit. ``make fuzz`` runs all kinds; ``python -m fuzz --seed N --only KIND``
in ``tests/`` repeats one of them, with ``--index I`` one mutation.
"""
