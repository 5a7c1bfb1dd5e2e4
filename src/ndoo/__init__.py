"""The National Data Opt-Out check service: who may be disclosed, at memory speed, as of when."""
