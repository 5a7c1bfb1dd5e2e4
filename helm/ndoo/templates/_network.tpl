{{/* (list ROOT CONNECTION): what every pod may reach: names, the Redis of the connection, and what the values add. */}}
{{- define "ndoo.egress" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.networkPolicy.dns -}}
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
  to:
    {{- toYaml . | nindent 4 }}
{{ end -}}
{{- include "ndoo.redisEgress" . }}
{{- with $root.Values.networkPolicy.egress }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "ndoo.redisEgress" -}}
{{- $policy := (index . 0).Values.networkPolicy -}}
- ports:
    {{- range include "ndoo.redisPorts" (list (index . 1) $policy.redisPorts) | fromJsonArray }}
    - port: {{ . }}
    {{- end }}
  {{- with $policy.redis }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "ndoo.collectorPort" -}}
{{- regexFind ":[0-9]+/?$" .Values.traces.env.OTEL_EXPORTER_OTLP_ENDPOINT | trimPrefix ":" | trimSuffix "/" -}}
{{- end }}
