# SPDX-License-Identifier: Apache-2.0
#
# Sourced: certificates for tests of TLS, made by certtool, in folders as nbdkit, qemu and libnbd want them.

# key FILE
key() { certtool --generate-privkey --key-type=ecdsa --outfile "$1" 2>>certtool.log; }

# authority DIR NAME: DIR/ca-key.pem and DIR/ca-cert.pem.
authority() {
  mkdir -p "$1"
  key "$1/ca-key.pem"
  printf '%s\n' "cn = \"$2\"" ca cert_signing_key crl_signing_key 'expiration_days = 100' >template
  certtool --generate-self-signed --load-privkey "$1/ca-key.pem" --template template --outfile "$1/ca-cert.pem" 2>>certtool.log
}

# certificate AUTHORITY DIR WHO PURPOSE LINE...: DIR/WHO-key.pem and DIR/WHO-cert.pem, signed by AUTHORITY/ca-key.pem. The LINEs
# go into certtool's template.
certificate() {
  local authority=$1 dir=$2 who=$3 purpose=$4
  shift 4
  mkdir -p "$dir"
  key "$dir/$who-key.pem"
  printf '%s\n' "cn = \"$who\"" "$purpose" signing_key "$@" >template
  certtool --generate-certificate --load-privkey "$dir/$who-key.pem" --load-ca-certificate "$authority/ca-cert.pem" \
    --load-ca-privkey "$authority/ca-key.pem" --template template --outfile "$dir/$who-cert.pem" 2>>certtool.log
}

lasting='expiration_days = 10'
past=('activation_date = "2020-01-01 00:00:00"' 'expiration_date = "2021-01-01 00:00:00"')

# good/: of the server and a client. Others: what of it is in the name.
authority good 'Good CA'
certificate good good server tls_www_server 'dns_name = localhost' 'ip_address = 127.0.0.1' "$lasting"
certificate good good client tls_www_client "$lasting"
authority other 'Other CA'
certificate other other client tls_www_client "$lasting"
certificate other other server tls_www_server 'dns_name = localhost' "$lasting"
# Calls itself by the good one's name: a client that looks at names alone takes it for that one.
authority impostor 'Good CA'
certificate impostor impostor client tls_www_client "$lasting"
mkdir no-certificate other-certificate
cp good/ca-cert.pem no-certificate
cp impostor/client-*.pem good/ca-cert.pem other-certificate  # trusts the server, and is not trusted
certificate good expired-client client tls_www_client "${past[@]}"
certificate good client-of-servers client tls_www_server "$lasting"
certificate good revoked-client client tls_www_client "$lasting"
certificate good expired-server server tls_www_server 'dns_name = localhost' "${past[@]}"
for dir in expired-client client-of-servers revoked-client expired-server; do cp good/ca-cert.pem "$dir"; done
cp -r good revoking
printf 'crl_next_update = 100\ncrl_number = 1\n' >template
certtool --generate-crl --load-ca-privkey good/ca-key.pem --load-ca-certificate good/ca-cert.pem \
  --load-certificate revoked-client/client-cert.pem --template template --outfile revoking/ca-crl.pem 2>>certtool.log
# psk/: alice, bob; wrong-psk/: another key of alice.
mkdir psk wrong-psk
psktool -u alice -p psk/keys.psk >>certtool.log
psktool -u bob -p psk/keys.psk >>certtool.log
psktool -u alice -p wrong-psk/keys.psk >>certtool.log
psktool -u mallory -p wrong-psk/keys.psk >>certtool.log
