"""The web page of `python -m fmaml_jax.serve`; only `page` and `server` know Gradio.

What a visitor gives is a `Session` in the server's memory, under the random number that Gradio
gives each page, and goes when the page is closed. A labelled clip's file is removed as soon as it
has been read, a recording's when it is cleared or the page is closed; results are sent within the
page, not as files. Nothing leaves the machine: no analytics, fonts or scripts of others, as a
content security policy enforces.
"""

import os

# Before Gradio reads them. Of its last ten thousand actions it would make a table after each.
os.environ |= {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9),
}
