"""The leaderboard: runs are submitted as data, checked by anybody, and shown on a page without a server.

    rules.py        levels, limits and rules, from protocol/<version>/submission.yaml
    entry.py        submission.json: what a submission says of itself
    shape.py        which files a submission may hold; archives
    signing.py      signatures by ssh-keygen; sigstore.py: by a login
    faults.py       unit faults seen in the wild, by name
    examine.py      one submission: findings, figures, level (examined.py keeps it by its digest)
    signers.py      who signed and reviewed it
    standing.py     many of them: duplicates, links, classes, ranks, the frontier
    pack.py         makes a submission from a run
    say.py          findings and standings as text, Markdown, JSON, SARIF, annotations
    site.py         the static site

No arithmetic of its own: figures come from `harness.report`, findings from `harness.validate`, order from
`harness.accounting`. Nothing in a submission is ever run.
"""
