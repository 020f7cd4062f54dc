{{/* A pod of `helm test`: (dict "root" $ "check" "store" "command" LIST "env" YAML). */}}
{{- define "lorapar.testPod" -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ include "lorapar.fullname" .root }}-test-{{ .check }}
  namespace: {{ .root.Release.Namespace }}
  # Not hook-succeeded: helm reads the logs (--logs) after deleting pods that succeeded, and then ends with 1.
  {{- $hook := dict "helm.sh/hook" "test" "helm.sh/hook-delete-policy" "before-hook-creation" }}
  {{- include "lorapar.podMetadata" (dict "root" .root "component" (printf "test-%s" .check) "job" true "annotations" $hook) | nindent 2 }}
spec:
  {{- include "lorapar.podDefaults" .root | nindent 2 }}
  {{- include "lorapar.placement" (dict "root" .root "component" (printf "test-%s" .check) "settings" .root.Values.jobs) | nindent 2 }}
  {{- if and (eq .check "kubeflow") .root.Values.pipeline.upload.enabled }}
  serviceAccountName: {{ include "lorapar.fullname" .root }}-upload
  {{- else if eq .check "store" }}
  {{- include "lorapar.storeIdentity" .root | nindent 2 }}
  {{- end }}
  restartPolicy: Never
  activeDeadlineSeconds: {{ .root.Values.tests.timeoutSeconds }}
  containers:
    - name: check
      image: {{ include "lorapar.image" (dict "root" .root "image" "client") }}
      imagePullPolicy: {{ .root.Values.images.pullPolicy }}
      securityContext:
        {{- include "lorapar.containerSecurityContext" .root | nindent 8 }}
      command: {{ .command | toJson }}
      env:
        {{- include "lorapar.env" (dict "root" .root "own" (printf "%s\n%s" (include "lorapar.jobEnv" .root) .env)) | nindent 8 }}
      resources:
        {{- toYaml .root.Values.jobs.resources | nindent 8 }}
      volumeMounts:
        - name: scripts
          mountPath: /scripts
          readOnly: true
        {{- include "lorapar.jobMounts" (dict "root" .root "settings" .root.Values.jobs) | nindent 8 }}
        {{- if eq .check "kubeflow" }}
        {{- include "lorapar.kubeflowTokenMount" .root | nindent 8 }}
        {{- end }}
  volumes:
    - name: scripts
      configMap:
        name: {{ include "lorapar.fullname" .root }}-scripts
    {{- include "lorapar.jobVolumes" (dict "root" .root "settings" .root.Values.jobs) | nindent 4 }}
    {{- if eq .check "kubeflow" }}
    {{- include "lorapar.kubeflowTokenVolume" .root | nindent 4 }}
    {{- end }}
{{- end }}

{{/* A multi-user Kubeflow needs a token for its own audience: the kubelet makes one, and the client finds it at this path. */}}
{{- define "lorapar.kubeflowEnv" -}}
{{- if .Values.pipeline.kfp.multiUser }}
- name: KF_PIPELINES_SA_TOKEN_PATH
  value: /var/run/secrets/kubeflow/pipelines/token
{{- end }}
{{- end }}

{{- define "lorapar.kubeflowTokenMount" -}}
{{- if .Values.pipeline.kfp.multiUser }}
- name: kubeflow-token
  mountPath: /var/run/secrets/kubeflow/pipelines
  readOnly: true
{{- end }}
{{- end }}

{{- define "lorapar.kubeflowTokenVolume" -}}
{{- if .Values.pipeline.kfp.multiUser }}
- name: kubeflow-token
  projected:
    sources:
      - serviceAccountToken:
          path: token
          audience: {{ .Values.pipeline.kfp.tokenAudience }}
          expirationSeconds: 3600
{{- end }}
{{- end }}
