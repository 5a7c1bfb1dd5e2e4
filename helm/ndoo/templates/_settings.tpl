{{/*
The settings of the server. Ports are the chart's own: pods have an address of their own.
*/}}

{{- define "ndoo.grpcPort" -}}50551{{- end }}
{{- define "ndoo.metricsPort" -}}50552{{- end }}
{{- define "ndoo.healthPort" -}}50553{{- end }}

{{/* Seconds in which callers, proxies and name servers hear that a pod goes, before it stops taking calls. */}}
{{- define "ndoo.preStopS" -}}10{{- end }}

{{/* Those, and the grace of running calls, and what the server takes at most to write what is to be kept. */}}
{{- define "ndoo.terminationS" -}}
{{- add (include "ndoo.preStopS" .) (.Values.settings.graceS | float64 | ceil) 30 -}}
{{- end }}

{{/* The Secret with the certificate to serve with; empty without TLS. */}}
{{- define "ndoo.tlsSecret" -}}
{{- $made := ternary (printf "%s-tls" (include "ndoo.fullname" .)) "" .Values.tls.certManager.enabled -}}
{{- .Values.tls.certificateSecret.name | default $made -}}
{{- end }}

{{/* A value as the environment has it: 1048576, not 1.048576e+06. */}}
{{- define "ndoo.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ toString . }}{{ end -}}
{{- end }}

{{/* All that stands in the ConfigMap. */}}
{{- define "ndoo.settings" -}}
{{- $listen := .Values.listenAddress -}}
NDOO_LISTEN: "{{ $listen }}:{{ include "ndoo.grpcPort" . }}"
NDOO_HTTP_LISTEN: "{{ $listen }}:{{ include "ndoo.metricsPort" . }}"
NDOO_HEALTH_LISTEN: "{{ $listen }}:{{ include "ndoo.healthPort" . }}"
NDOO_FEED: {{ include "ndoo.redisUrl" (list .Values.feed "/etc/ndoo/feed") | quote }}
NDOO_STATE_DIR: /var/lib/ndoo/state
{{- if .Values.plaintext }}
NDOO_PLAINTEXT: "true"
{{- else }}
NDOO_TLS_CERTIFICATE: /etc/ndoo/tls/tls.crt
NDOO_TLS_KEY: /etc/ndoo/tls/tls.key
{{- end }}
{{- if .Values.tls.clientCaSecret.name }}
NDOO_TLS_CLIENT_CA: /etc/ndoo/tls/ca.crt
{{- end }}
{{- if include "ndoo.hasClients" . }}
NDOO_CLIENTS: /etc/ndoo/clients/{{ .Values.clients.key }}
{{- end }}
{{- if .Values.budgets.url }}
NDOO_BUDGETS: {{ include "ndoo.redisUrl" (list .Values.budgets "/etc/ndoo/budgets") | quote }}
NDOO_BUDGETS_FAIL_OPEN: {{ .Values.budgets.failOpen | quote }}
{{- end }}
{{- if .Values.signing.publicKeySecret.name }}
NDOO_SNAPSHOT_PUBLIC_KEY: /etc/ndoo/signing/snapshot.pub
{{- end }}
{{- if eq .Values.audit.destination "stdout" }}
NDOO_AUDIT: "-"
{{- end }}
{{- if ne .Values.audit.destination "none" }}
NDOO_AUDIT_REQUIRED: {{ .Values.audit.required | quote }}
NDOO_AUDIT_BYTES_MAX: {{ include "ndoo.text" .Values.audit.bytesMax | quote }}
{{- end }}
{{- if .Values.traces.enabled }}
NDOO_TRACES: "true"
{{- range $name, $value := .Values.traces.env }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end }}
{{- range $name, $value := .Values.settings }}
NDOO_{{ regexReplaceAll "([A-Z])" $name "_${1}" | upper }}: {{ include "ndoo.text" $value | quote }}
{{- end }}
{{- end }}

{{- define "ndoo.hasClients" -}}
{{- .Values.clients.secretName | default .Values.clients.configMapName -}}
{{- end }}
