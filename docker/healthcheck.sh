#!/bin/bash
# Exit 0 when the daemon in this container answers 200 on /readyz. bash alone does it: it is in the
# image anyway, curl is not.
listen=${SCDIVA_LISTEN:-127.0.0.1:8080}
exec 3<>"/dev/tcp/127.0.0.1/${listen##*:}" || exit 1
printf 'GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
read -r -t 2 _ status _ <&3
[ "$status" = 200 ]
