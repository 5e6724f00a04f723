# The configuration of a gateway under load, for scripts that `source` this (bench.sh, profile.sh).

config_head() { # PORT STORE
    cat <<EOT
listen = "127.0.0.1:$1"
workers = 1
drain_delay = "0s"

[store]
path = "$2"
allow_ephemeral = true

[admin]
listen = "127.0.0.1:0"

[secrets]
bench = { value = "bench-secret" }
EOT
}

config_route() { # PATH PROVIDER MODE SINK
    cat <<EOT

[[route]]
path = "$1"
provider = "$2"
secrets = ["bench"]
mode = "$3"
upstream = { url = "http://$4/" }
EOT
}
