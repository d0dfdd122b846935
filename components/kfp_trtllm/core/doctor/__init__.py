"""What a failed tool's log says: cause, what to change, and whether a retry with that change is safe.

diagnosis.py   a diagnosis, and its words for a terminal
signs.py       messages as data, and where a log has them
ailments.py    the table: messages, cause, remedy, retry
examine.py     a log in, a diagnosis out
retries.py     what to make smaller before a build that ran out of memory is tried again
"""
