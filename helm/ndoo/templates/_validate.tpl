{{/*
What does not go together is refused, one sentence each: what is wrong, and what mends it. Types, ranges and names that
nobody knows are refused before, by values.schema.json. No sentence repeats a URL, which may hold a password.
*/}}

{{- define "ndoo.validate" -}}
{{- if not .Values.image.repository -}}
{{- fail "There is no image: set image.repository to where you pushed it, for example registry.example/ndoo." -}}
{{- end -}}
{{- if not (regexMatch "^[a-z][-a-z0-9]*$" (include "ndoo.fullname" .)) -}}
{{- fail "A Service cannot be called after this release: install it under a name of a-z, 0-9 and '-' that begins with a letter, or set fullnameOverride." -}}
{{- end -}}
{{- include "ndoo.validateFeeds" . -}}
{{- include "ndoo.validateTls" . -}}
{{- include "ndoo.validateClients" . -}}
{{- include "ndoo.validateSigning" . -}}
{{- include "ndoo.validateRecords" . -}}
{{- include "ndoo.validateSettings" . -}}
{{- include "ndoo.validateOperation" . -}}
{{- end }}

{{- define "ndoo.validateFeeds" -}}
{{- if not .Values.feed.url -}}
{{- fail "There is no feed: set feed.url to the Redis that opt-outs come from, for example rediss://ndoo-reader@redis.example:6379/0." -}}
{{- end -}}
{{- include "ndoo.validateRedis" (list "feed" .Values.feed "feed.url") -}}
{{- if .Values.snapshots.enabled -}}
{{- include "ndoo.validateRedis" (list "snapshots" (include "ndoo.snapshotsFeed" . | fromJson) "feed.url, with snapshots.user,") -}}
{{- else if or .Values.snapshots.user .Values.snapshots.passwordSecret.name .Values.snapshots.certificateSecret.name -}}
{{- fail "There is a user of Redis for snapshots, but nobody takes any: set snapshots.enabled to true, or empty snapshots.user and its Secrets." -}}
{{- end -}}
{{- if .Values.budgets.url -}}
{{- include "ndoo.validateRedis" (list "budgets" .Values.budgets "budgets.url") -}}
{{- else if or .Values.budgets.failOpen (include "ndoo.redisSecrets" .Values.budgets) -}}
{{- fail "Budgets are configured, but there is no place for them: set budgets.url to a Redis, or empty the rest of budgets." -}}
{{- end -}}
{{- end }}

{{/* (list PREFIX CONNECTION WHERE): WHERE names the URL, PREFIX the rest. */}}
{{- define "ndoo.validateRedis" -}}
{{- $at := index . 0 -}}
{{- $redis := index . 1 -}}
{{- $where := index . 2 -}}
{{- $host := "([A-Za-z0-9._-]+|\\[[0-9A-Fa-f:.]+\\])(:[1-9][0-9]{0,4})?" -}}
{{- $server := printf "://([^/?#@:\\s]+@)?%s(/[0-9]{0,5})?" $host -}}
{{- $sentinel := printf "\\+sentinel://([^/?#@:\\s]+@)?%s(,%s)*/[A-Za-z0-9._-]+(/[0-9]{0,5})?" $host $host -}}
{{- $cluster := printf "\\+cluster://([^/?#@:\\s]+@)?%s(,%s)*(/0*)?" $host $host -}}
{{- if hasPrefix "dir:" $redis.url -}}
{{- fail (printf "%s names a directory, which pods cannot share: name a Redis." $where) -}}
{{- else if contains "?" $redis.url -}}
{{- fail (printf "%s has options after '?': they follow from the Secrets and the user that are named below %s, so leave them out." $where $at) -}}
{{- else if regexMatch "://[^/@]*:[^/]*@" $redis.url -}}
{{- fail (printf "%s holds a password, which everybody who reads the ConfigMap would see: put it into a Secret and name that in %s.passwordSecret." $where $at) -}}
{{- else if not (regexMatch (printf "^rediss?(%s|%s|%s)$" $server $sentinel $cluster) $redis.url) -}}
{{- fail (printf "%s is of a kind that is not known: write redis://USER@HOST:PORT/DB, redis+sentinel://USER@HOST:PORT,HOST:PORT/SERVICE/DB or redis+cluster://USER@HOST:PORT,HOST:PORT, each with rediss for TLS." $where) -}}
{{- else if not (or $redis.passwordSecret.name $redis.certificateSecret.name) -}}
{{- fail (printf "There is no Secret to log in to Redis with, and who may write to an open one decides who is opted out: set %s.passwordSecret.name, or %s.certificateSecret.name." $at $at) -}}
{{- else if and (not (hasPrefix "rediss" $redis.url)) (or $redis.caSecret.name $redis.certificateSecret.name) -}}
{{- fail (printf "%s is without TLS, so %s.caSecret and %s.certificateSecret mean nothing: begin it with rediss, or empty them." $where $at $at) -}}
{{- else if and (not (contains "+sentinel:" $redis.url)) (or $redis.sentinelUser $redis.sentinelPasswordSecret.name) -}}
{{- fail (printf "%s names no Sentinels, so %s.sentinelUser and %s.sentinelPasswordSecret mean nothing: empty them." $where $at $at) -}}
{{- else if and $redis.sentinelUser (not $redis.sentinelPasswordSecret.name) -}}
{{- fail (printf "%s.sentinelUser has no password: name its Secret in %s.sentinelPasswordSecret." $at $at) -}}
{{- end -}}
{{- end }}

{{/* Whether a connection names any Secret. */}}
{{- define "ndoo.redisSecrets" -}}
{{ .passwordSecret.name }}{{ .caSecret.name }}{{ .certificateSecret.name }}{{ .sentinelPasswordSecret.name }}
{{- end }}

{{- define "ndoo.validateTls" -}}
{{- $tls := include "ndoo.tlsSecret" . -}}
{{- if and .Values.plaintext (or $tls .Values.tls.clientCaSecret.name) -}}
{{- fail "plaintext and tls contradict each other: set plaintext to false, or empty the Secrets of tls and switch its certManager off." -}}
{{- else if not (or .Values.plaintext $tls) -}}
{{- fail "Calls would cross the network unprotected: set tls.certificateSecret.name, or tls.certManager.enabled, or plaintext to true if that is meant." -}}
{{- else if and .Values.tls.certManager.enabled (not .Values.tls.certManager.issuerRef.name) -}}
{{- fail "Nobody issues the certificate: set tls.certManager.issuerRef.name." -}}
{{- end -}}
{{- end }}

{{- define "ndoo.validateClients" -}}
{{- if and .Values.clients.secretName .Values.clients.configMapName -}}
{{- fail "The clients are named twice: set one of clients.secretName and clients.configMapName." -}}
{{- else if and .Values.budgets.url (not (include "ndoo.hasClients" .)) -}}
{{- fail "Budgets bound clients, and none are named: set clients.secretName or clients.configMapName, or empty budgets.url." -}}
{{- end -}}
{{- end }}

{{- define "ndoo.validateSigning" -}}
{{- $public := .Values.signing.publicKeySecret.name -}}
{{- $private := .Values.signing.privateKeySecret.name -}}
{{- if and $private (not .Values.snapshots.enabled) -}}
{{- fail "There is a key to sign snapshots with, but nobody takes any: set snapshots.enabled to true, or empty signing.privateKeySecret.name." -}}
{{- else if and $private (not $public) -}}
{{- fail "Snapshots are signed, but replicas would take others too: set signing.publicKeySecret.name." -}}
{{- else if and $public .Values.snapshots.enabled (not $private) -}}
{{- fail "Replicas demand signed snapshots, and those of the CronJob would have no signature: set signing.privateKeySecret.name." -}}
{{- end -}}
{{- end }}

{{- define "ndoo.validateRecords" -}}
{{- $audit := .Values.audit -}}
{{- if and (eq $audit.destination "volume") (not $audit.volume) -}}
{{- fail "There is no volume for audit records: set audit.volume, for example to persistentVolumeClaim: {claimName: audit}." -}}
{{- else if gt (len $audit.volume) 1 -}}
{{- fail "audit.volume holds several volumes: keep one of persistentVolumeClaim, ephemeral and csi." -}}
{{- else if and (ne $audit.destination "volume") $audit.volume -}}
{{- fail "audit.volume is set, but records do not go there: set audit.destination to volume, or empty audit.volume." -}}
{{- else if and (eq $audit.destination "none") $audit.required -}}
{{- fail "audit.required needs a place for the records: set audit.destination to stdout or volume." -}}
{{- end -}}
{{- if .Values.traces.enabled -}}
{{- if not (regexMatch "^https?://[^/\\s:@]+:[1-9][0-9]{0,4}/?$" (.Values.traces.env.OTEL_EXPORTER_OTLP_ENDPOINT | default "")) -}}
{{- fail "There is nowhere to send traces: set OTEL_EXPORTER_OTLP_ENDPOINT in traces.env to http://HOST:PORT of a collector." -}}
{{- end -}}
{{- range $name, $_ := .Values.traces.env -}}
{{- if hasSuffix "_HEADERS" $name -}}
{{- fail (printf "%s in traces.env would show credentials to everybody who reads the ConfigMap: let a collector in the cluster add them." $name) -}}
{{- else if and (hasSuffix "_ENDPOINT" $name) (ne $name "OTEL_EXPORTER_OTLP_ENDPOINT") -}}
{{- fail (printf "%s in traces.env would send traces elsewhere than OTEL_EXPORTER_OTLP_ENDPOINT, where the NetworkPolicy lets nothing pass: leave it out." $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "ndoo.validateSettings" -}}
{{- range $name := list "graceS" "messageBytesMax" "numbersPerMessageMax" -}}
{{- if not (hasKey $.Values.settings $name) -}}
{{- fail (printf "settings.%s is missing, which the chart computes with: give it a number." $name) -}}
{{- end -}}
{{- end -}}
{{- $needed := add (mul (int64 .Values.settings.numbersPerMessageMax) 8) 1024 -}}
{{- if lt (int64 .Values.settings.messageBytesMax) $needed -}}
{{- fail (printf "settings.messageBytesMax is too small for settings.numbersPerMessageMax: it has to be %d at least." $needed) -}}
{{- end -}}
{{- end }}

{{- define "ndoo.validateOperation" -}}
{{- $scaling := .Values.autoscaling -}}
{{- if and $scaling.enabled (gt (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- fail "autoscaling.minReplicas is larger than autoscaling.maxReplicas: lower the one, or raise the other." -}}
{{- else if and $scaling.enabled (not (or $scaling.cpuPercent $scaling.numbersPerSecond)) -}}
{{- fail "autoscaling has nothing to go by: set autoscaling.cpuPercent or autoscaling.numbersPerSecond." -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled .Values.networkPolicy.enabled (not .Values.networkPolicy.scrapers) -}}
{{- fail "Prometheus is to scrape the pods, and the NetworkPolicy lets nobody: name where it runs in networkPolicy.scrapers." -}}
{{- end -}}
{{- if and .Values.grpcRoute.enabled (not .Values.grpcRoute.parentRefs) -}}
{{- fail "The GRPCRoute belongs to no gateway: name one in grpcRoute.parentRefs." -}}
{{- end -}}
{{- end }}
