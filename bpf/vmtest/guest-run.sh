finish() { echo "vmtest rc=$1"; sync; poweroff -f; }
trap 'finish 99' EXIT
echo '{"id":42}' >/www/order.json
spile up --data /data/spile --target netns=self >/tmp/up.log 2>&1 &
up=$!
for i in $(seq 120); do
	spile status --data /data/spile -o json >/tmp/status.json 2>/dev/null && grep -q '"rungs"' /tmp/status.json && break
	spile agents --data /data/spile -o json 2>/dev/null | grep -q '"rungs"' && break
	sleep 1
done
openssl s_server -quiet -accept 8443 -cert /cert.pem -key /key.pem -WWW >/tmp/tls.log 2>&1 &
SPILE_VM_SERVE=127.0.0.1:9443 vmtest.test -test.run '^TestServe$' >/tmp/go.log 2>&1 &
httpd -p 127.0.0.1:8080 -h /www
sleep 6
cd /www
for i in 1 2 3 4 5; do
	curl -sk --http1.1 https://127.0.0.1:8443/order.json -o /dev/null -w 'tls answered %{http_code}\n'
	curl -s http://127.0.0.1:8080/order.json -o /dev/null -w 'plain answered %{http_code}\n'
	curl -sk --http1.1 https://127.0.0.1:9443/go.json -o /dev/null -w 'go answered %{http_code}\n'
	sleep 1
done
sleep 4
echo '--- calls'
spile calls --data /data/spile --since 10m -o json
echo '--- agents'
spile agents --data /data/spile -o json
echo '--- log'
tail -n 25 /tmp/up.log
echo '--- end'
kill -TERM $up
wait $up
rc=$?
trap - EXIT
finish $rc
