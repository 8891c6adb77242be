"""An engine one cannot enter: any server that speaks the OpenAI completions API, as a runner.

    runner = open_runner("http:http://127.0.0.1:8000/v1", folder="fixtures/models/moe-tiny")
    runner.generate(Request("a", ids), max_new_tokens=8).ids

It shows one stage, `logits`, as log-probabilities, and only those that the server shows. An API key comes from the
environment (PARITY_HTTP_API_KEY, or the variable that the option `key_env` names) and from nowhere else.
"""
