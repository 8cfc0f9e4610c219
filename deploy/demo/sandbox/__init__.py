"""A mail server, a Slack webhook and an Aligo endpoint on loopback, so that a message can be followed to its end.

They behave as the real ones do, limits and refusals included, can be told to misbehave, and keep what arrived.

Start it with ``python -m deploy.demo.sandbox --http 127.0.0.1:19120 --smtp 127.0.0.1:19125``. Port 0 takes a free
one. When it listens it prints one line of JSON on stdout::

    {"http": "http://127.0.0.1:19120", "smtp": "127.0.0.1:19125", "smtps": null,
     "slack_webhook_url": "http://127.0.0.1:19120/services/T0/B0/sandbox",
     "aligo_base_url": "http://127.0.0.1:19120/aligo",
     "aligo": {"key": "sandbox-key", "user_id": "sandbox", "senders": ["0212345678"]}}

In a test, on free ports, in a thread of its own::

    with Sandbox() as sandbox:          # Sandbox(Options(slack_rate=0)) is without Slack's rate limit
        sandbox.smtp                    # ("127.0.0.1", 40123)
        sandbox.slack_webhook_url, sandbox.aligo_base_url
        sandbox.misbehave(channel="slack", status=500, body="rollup_error", times=2)
        sandbox.messages("slack")       # what arrived, oldest first
        sandbox.calls("slack")          # every attempt, with what it was answered
        sandbox.behave(); sandbox.clear()

``Client(url)`` has the same methods for a sandbox that runs as a process of its own.

What people see
    ``GET /`` is a phone, a Slack channel and a mailbox; ``GET /runbooks/ko/NAME.md`` is what a message links to.
    ``GET /-/healthy`` answers 200.

What arrived
    ``GET /sandbox/messages?channel=smtp|slack|aligo&after=ID&limit=N`` → ``{"session", "messages": [...]}``, oldest
    first; ``limit`` keeps the newest of each channel. ``session`` changes when the messages are cleared. Each has
    ``id`` (ascending over all channels), ``time`` (ISO 8601, UTC) and ``channel``, and

    - smtp: ``mail_from``, ``recipients`` (the envelope's accepted ones), ``refused`` ({address: code}), ``tls``,
      ``user``, ``size``, ``raw``, ``headers`` ([[name, value], ...]), ``subject``, ``from``, ``to``, ``text``,
      ``html``, ``attachments``; the exact bytes are at ``GET /sandbox/messages/ID/raw``;
    - slack: ``hook`` ("T0/B0/sandbox"), ``payload``;
    - aligo, one for each number: ``mid``, ``mdid``, ``sender``, ``receiver``, ``msg`` (as the phone shows it, ``?`` for
      what cp949 has not), ``bytes``, ``msg_type``, ``title``, ``test`` (testmode_yn=Y: nothing was sent).

    ``GET /sandbox/calls?channel=`` → ``{"calls": [...]}``, every attempt: ``id``, ``time``, ``channel``, ``stage``,
    ``answer`` ("250 OK", "429 rate_limited", "result_code -101", "dropped", "hung") and ``accepted``.
    ``DELETE /sandbox/messages`` forgets messages and calls. ``PUT /sandbox/balance {"sms": 3}`` sets Aligo's balance.

How to make it misbehave
    ``POST /sandbox/behaviour`` (``application/json``) adds one, ``GET`` lists those in force, ``DELETE``
    (``?channel=``) clears them. The first one posted that fits a call is applied to it.

    ========  ==========================================================================================
    channel   smtp, slack or aligo
    stage     where. smtp: connect, ehlo, starttls, auth, mail, rcpt, data (the command) or message (the
              mail is handed over; default). aligo: send (default), remain, list, sms_list
    times     for so many calls; null: until cleared
    delay     seconds before the answer; what is accepted is taken before the delay
    status    the HTTP status or SMTP reply to give (421 also closes the connection)
    body      the body or reply text to give; anything but text is sent as JSON
    headers   HTTP only
    drop      true: close the connection instead of answering
    hang      true: never answer, until cleared
    accept    true: take the message nevertheless (accepted, but the sender cannot know). Default: false
              where the answer is replaced, true where it is merely delayed
    refuse    smtp: {"gone@example.com": 550}, refused at RCPT, the others are taken; counts once a mail.
              aligo: {"01000000000": -1}, counted in error_cnt
    starttls  smtp, false: STARTTLS is not offered
    ========  ==========================================================================================

    Slack's silence after taking a message, once: ``{"channel": "slack", "drop": true, "accept": true, "times": 1}``.
    A mail server that hangs up after DATA: ``{"channel": "smtp", "drop": true}``. A full mailbox, twice:
    ``{"channel": "smtp", "refuse": {"a@example.com": 452}, "times": 2}``.
"""

from deploy.demo.sandbox.client import Client
from deploy.demo.sandbox.server import Options, Sandbox

__all__ = ["Client", "Options", "Sandbox"]
