{{- define "lorapar.bucketPod" -}}
{{- include "lorapar.podDefaults" . }}
restartPolicy: OnFailure
containers:
  - name: bucket
    image: {{ include "lorapar.image" (dict "root" . "image" "client") }}
    imagePullPolicy: {{ .Values.images.pullPolicy }}
    securityContext:
      {{- include "lorapar.containerSecurityContext" . | nindent 6 }}
    command: [python, /scripts/make_bucket.py, {{ include "lorapar.bucket" . }}]
    env:
      {{- include "lorapar.objectStoreEnv" . | nindent 6 }}
    resources:
      requests: {cpu: 50m, memory: 128Mi}
      limits: {memory: 256Mi}
    volumeMounts:
      - name: scripts
        mountPath: /scripts
        readOnly: true
      {{- include "lorapar.caMount" . | nindent 6 }}
volumes:
  - name: scripts
    configMap:
      name: {{ include "lorapar.fullname" . }}-scripts
  {{- include "lorapar.caVolume" . | nindent 2 }}
{{- end }}
