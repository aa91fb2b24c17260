"""A small service that takes GitHub's webhooks: run it with ``make run`` or ``make demo``.

Read it in this order: `events` (what can be announced), `webhooks` (the route that announces),
`listeners` (who reacts), `feed` (the database), `app` (where all of it is put together), `pages`
(what a browser sees), `server` and `__main__` (how it starts and stops), `demo` (its own traffic);
and, for several processes with a Kafka between them, `topics` and `worker`.
"""
