"""The testbed of docker/compose.yml: brought up, put through every scenario, and taken down."""
