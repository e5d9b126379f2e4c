"""Files that are whole or not there, and manifests that vouch for them: what every room that writes builds on."""
