{{/*
How pods reach a Redis. Each connection is a map as .Values.feed is, and a folder of the pod in which its Secrets appear
as files. The URL names these files, so no password is in a ConfigMap or an environment.
*/}}

{{/* (list CONNECTION FOLDER): the URL with its options. */}}
{{- define "ndoo.redisUrl" -}}
{{- $redis := index . 0 -}}
{{- $folder := index . 1 -}}
{{- $options := list -}}
{{- if $redis.passwordSecret.name }}{{ $options = append $options (printf "password_file=%s/password" $folder) }}{{ end -}}
{{- if $redis.caSecret.name }}{{ $options = append $options (printf "ca=%s/ca.crt" $folder) }}{{ end -}}
{{- if $redis.certificateSecret.name }}{{ $options = append $options (printf "cert=%s/tls.crt&key=%s/tls.key" $folder $folder) }}{{ end -}}
{{- if $redis.sentinelUser }}{{ $options = append $options (printf "sentinel_user=%s" $redis.sentinelUser) }}{{ end -}}
{{- if $redis.sentinelPasswordSecret.name }}{{ $options = append $options (printf "sentinel_password_file=%s/sentinel-password" $folder) }}{{ end -}}
{{ $redis.url }}?{{ join "&" $options }}
{{- end }}

{{/* A connection: the source of the volume with its files. A renewed Secret appears in it without a restart. */}}
{{- define "ndoo.redisVolume" -}}
projected:
  defaultMode: 0440
  sources:
    {{- with .passwordSecret }}{{ if .name }}
    - secret: {name: {{ .name | quote }}, items: [{key: {{ .key | quote }}, path: password}]}
    {{- end }}{{ end }}
    {{- with .caSecret }}{{ if .name }}
    - secret: {name: {{ .name | quote }}, items: [{key: {{ .key | quote }}, path: ca.crt}]}
    {{- end }}{{ end }}
    {{- with .certificateSecret }}{{ if .name }}
    - secret: {name: {{ .name | quote }}, items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]}
    {{- end }}{{ end }}
    {{- with .sentinelPasswordSecret }}{{ if .name }}
    - secret: {name: {{ .name | quote }}, items: [{key: {{ .key | quote }}, path: sentinel-password}]}
    {{- end }}{{ end }}
{{- end }}

{{/* The feed as the job of snapshots reaches it, in JSON: the same place, another user. */}}
{{- define "ndoo.snapshotsFeed" -}}
{{- $login := ternary (printf "://%s@" .Values.snapshots.user) "://" (ne .Values.snapshots.user "") -}}
{{- $url := regexReplaceAll "://([^/@]*@)?" .Values.feed.url $login -}}
{{- merge (pick .Values.snapshots "passwordSecret" "certificateSecret") (dict "url" $url) (omit .Values.feed "url" "passwordSecret" "certificateSecret") | toJson -}}
{{- end }}

{{/* (list CONNECTION PORTS): the ports that pods have to reach, in JSON. PORTS, if there are any, are taken instead. */}}
{{- define "ndoo.redisPorts" -}}
{{- $url := (index . 0).url -}}
{{- $ports := index . 1 -}}
{{- if not $ports -}}
  {{- $default := 6379 -}}
  {{- if contains "+sentinel:" $url }}{{ $ports = list 6379 }}{{ $default = 26379 }}{{ end -}}
  {{- range $host := regexReplaceAll "^[^:]*://([^/@]*@)?([^/]*).*$" $url "${2}" | splitList "," -}}
    {{- $ports = append $ports (regexFind ":[0-9]+$" $host | trimPrefix ":" | default $default | int) -}}
  {{- end -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end }}
