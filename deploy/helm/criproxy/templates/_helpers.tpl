{{- define "criproxy.selector" -}}
app.kubernetes.io/name: criproxy
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "criproxy.labels" -}}
{{ include "criproxy.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "criproxy.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- /* What all containers share: the image, which is the program, and the node's files. */}}
{{- define "criproxy.container" -}}
image: {{ include "criproxy.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  # Changes the node's files and talks to its systemd.
  privileged: true
  readOnlyRootFilesystem: true
resources: {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
- {name: host, mountPath: /host, mountPropagation: HostToContainer}
- {name: config, mountPath: /config, readOnly: true}
{{- end }}

{{- /* The command of a container that runs a part of files/node.sh. */}}
{{- define "criproxy.script" -}}
command: [/bin/sh, /config/node.sh, {{ .part }}, {{ .root.Chart.AppVersion | quote }}]
{{- end }}
