"""The dashboard: pages of a fleet in a browser, by what the API shows and changes, and never more.

    facts.py (what the controller knows) → views.py (what a page shows) → layout.py (where on the map) → templates/

The three in the middle are pure. Who looks has signed in with a bearer token (controller/sessions.py).
"""
