{{/* One alert: (dict "rule" VALUES "name" … "severity" … "for" … "expr" … "summary" … "what" …). */}}
{{- define "lorapar.alert" -}}
- alert: {{ .name }}
  expr: {{ .expr | quote }}
  for: {{ .for }}
  labels:
    severity: {{ .severity }}
    {{- with .rule.alertLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    summary: {{ .summary | quote }}
    description: {{ .what | quote }}
    {{- with .rule.runbook }}
    runbook_url: {{ . }}#{{ $.name | lower }}
    {{- end }}
{{- end }}
