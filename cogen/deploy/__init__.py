"""The coordinator's programs and the way in: serve, gateway, invites, enrolment, members, certificates."""
