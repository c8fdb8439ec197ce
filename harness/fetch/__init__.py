"""Getting models and data, apart from measuring.

`kit fetch` is the only part of the kit that touches a network, and it runs before anything is measured.
Which files belong to a reproduction is written in experiments/data/assets.lock.yaml; `store` says where they
lie once they are complete, and `require` is how a run asks for them. Only `hub` speaks with the
Hugging Face client; `lockfile`, `store` and `require` run on the base install.
"""
