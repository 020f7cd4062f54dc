{{- define "lorapar.bucketPod" -}}
{{- include "lorapar.podDefaults" . }}
{{- include "lorapar.placement" (dict "root" . "component" "bucket" "settings" .Values.jobs) }}
{{- include "lorapar.storeIdentity" . | nindent 0 }}
restartPolicy: OnFailure
containers:
  - name: bucket
    image: {{ include "lorapar.image" (dict "root" . "image" "client") }}
    imagePullPolicy: {{ .Values.images.pullPolicy }}
    securityContext:
      {{- include "lorapar.containerSecurityContext" . | nindent 6 }}
    command: [python, /scripts/make_bucket.py, {{ include "lorapar.bucket" . }}]
    env:
      {{- include "lorapar.env" (dict "root" . "own" (printf "%s\n%s" (include "lorapar.jobEnv" .) (include "lorapar.objectStoreEnv" .))) | nindent 6 }}
    resources:
      {{- toYaml (.Values.jobs.resources | default dict) | nindent 6 }}
    volumeMounts:
      - name: scripts
        mountPath: /scripts
        readOnly: true
      {{- include "lorapar.jobMounts" (dict "root" . "settings" .Values.jobs) | nindent 6 }}
volumes:
  - name: scripts
    configMap:
      name: {{ include "lorapar.fullname" . }}-scripts
  {{- include "lorapar.jobVolumes" (dict "root" . "settings" .Values.jobs) | nindent 2 }}
{{- end }}
