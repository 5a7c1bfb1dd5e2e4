{{/* Names and labels. A name leaves room for what is appended to it: a CronJob's may have 52 characters. */}}

{{- define "ndoo.fullname" -}}
{{- $name := ternary .Release.Name (printf "%s-ndoo" .Release.Name) (contains "ndoo" .Release.Name) -}}
{{- .Values.fullnameOverride | default $name | trunc 42 | trimAll "-" -}}
{{- end }}

{{/* (list ROOT COMPONENT): what never changes, so that an upgrade finds what was installed. */}}
{{- define "ndoo.selector" -}}
app.kubernetes.io/name: ndoo
app.kubernetes.io/instance: {{ (index . 0).Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* (list ROOT COMPONENT): the labels of a pod. Of what is given twice, here and below, the chart's own counts. */}}
{{- define "ndoo.podLabels" -}}
{{- merge (include "ndoo.selector" . | fromYaml) (index . 0).Values.commonLabels | toYaml -}}
{{- end }}

{{/* (list ROOT FURTHER): the labels of an object, and further ones. */}}
{{- define "ndoo.labels" -}}
{{- $root := index . 0 -}}
{{- $own := dict
  "app.kubernetes.io/name" "ndoo"
  "app.kubernetes.io/instance" $root.Release.Name
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/managed-by" $root.Release.Service
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_")
-}}
{{- merge $own (index . 1) $root.Values.commonLabels | toYaml -}}
{{- end }}

{{/* The job label of all replicas of this deployment, and of no others: the alerts tell deployments apart by it. */}}
{{- define "ndoo.job" -}}
ndoo/{{ .Release.Namespace }}/{{ include "ndoo.fullname" . }}
{{- end }}
