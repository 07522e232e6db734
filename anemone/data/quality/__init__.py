"""What a data set is like, and what is wrong with it.

``stats`` measures: hours, durations, alphabets, words, speakers, and recordings by their headers. ``validate`` finds
what breaks one of the rules in ``rules``: in texts by ``texts``, in recordings by ``sound``, between sets by
``overlap``; ``page`` shows what it found.
"""
