{{/* Parts of pods that every pod of this chart shares. Together they meet the Pod Security profile "restricted". */}}

{{/* The user's number, or nothing where the platform assigns it. */}}
{{- define "lorapar.user" -}}
{{- if not .Values.openshift -}}{{- with .Values.podSecurityContext -}}{{- with .runAsUser -}}{{ int64 . }}{{- end -}}{{- end -}}{{- end -}}
{{- end }}

{{- define "lorapar.podSecurityContext" -}}
{{- $given := ternary dict (.Values.podSecurityContext | default dict) .Values.openshift -}}
{{- $user := include "lorapar.user" . -}}
runAsNonRoot: true
{{- with $user }}
runAsUser: {{ . }}
{{- end }}
{{- range $key := list "runAsGroup" "fsGroup" }}
{{- $number := get $given $key }}
{{- if or $user (and (hasKey $given $key) (not (kindIs "invalid" $number))) }}
{{ $key }}: {{ ternary $user (int64 $number) (or (not (hasKey $given $key)) (kindIs "invalid" $number)) }}
{{- if eq $key "fsGroup" }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
{{- end }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "lorapar.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* A container's variables, each once: (dict "root" $ "own" YAML "last" LIST). Later ones win: those of the network, the
container's own, `extraEnv`, and the server's own `extraEnv`. */}}
{{- define "lorapar.env" -}}
{{- $entries := concat (fromYamlArray (include "lorapar.caEnv" .root)) (fromYamlArray (.own | default "[]")) (.root.Values.extraEnv | default list) (.last | default list) -}}
{{- $byName := dict -}}
{{- $names := list -}}
{{- range $entries -}}
{{- $_ := set $byName .name . -}}
{{- $names = append (without $names .name) .name -}}
{{- end -}}
{{- $kept := list -}}
{{- range $names -}}{{- $kept = append $kept (get $byName .) -}}{{- end -}}
{{- toYaml $kept -}}
{{- end }}

{{/* ConfigMap or Secret, and entry, with the company's certificate authorities, as JSON; `name` is empty without any. */}}
{{- define "lorapar.ca" -}}
{{- $own := .Values.caBundle | default dict -}}
{{- $older := .Values.objectStore.caBundle | default dict -}}
{{- $given := ternary $own $older (or (ne "" ($own.configMap | default "")) (ne "" ($own.secret | default ""))) -}}
{{- $entry := $given.entry | default "ca.crt" -}}
{{- if $given.secret -}}
{{- dict "kind" "secret" "name" $given.secret "entry" $entry | toJson -}}
{{- else -}}
{{- dict "kind" "config_map" "name" ($given.configMap | default "") "entry" $entry | toJson -}}
{{- end -}}
{{- end }}

{{/* Names of the image pull Secrets as JSON, from a list of `NAME` or `{name: NAME}`, or one of these alone. */}}
{{- define "lorapar.pullSecrets" -}}
{{- $names := list -}}
{{- $given := .Values.images.pullSecrets | default (.Values.global | default dict).imagePullSecrets -}}
{{- range ternary $given (ternary (list $given) list (not (empty $given))) (kindIs "slice" $given) -}}
{{- if kindIs "string" . -}}{{- $names = append $names . -}}{{- else -}}{{- $names = append $names .name -}}{{- end -}}
{{- end -}}
{{- $names | uniq | toJson -}}
{{- end }}

{{- define "lorapar.imagePullSecrets" -}}
{{- with include "lorapar.pullSecrets" . | fromJsonArray }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* lorapar's own variable adds to the public authorities; all other programs read the other variables. */}}
{{- define "lorapar.caEnv" -}}
{{- $ca := fromJson (include "lorapar.ca" .) -}}
{{- if $ca.name }}
{{- range list "LORAPAR_CA_BUNDLE" "AWS_CA_BUNDLE" "SSL_CERT_FILE" "REQUESTS_CA_BUNDLE" }}
- name: {{ . }}
  value: /etc/lorapar/ca/{{ $ca.entry }}
{{- end }}
{{- else -}}
[]
{{- end }}
{{- end }}

{{/* The beginning of every pod's spec. */}}
{{- define "lorapar.podDefaults" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "lorapar.podSecurityContext" . | nindent 2 }}
{{- include "lorapar.imagePullSecrets" . }}
{{- end }}

{{/* Address and credentials of the object store as boto3's own variables; secret values are never written out. */}}
{{- define "lorapar.objectStoreEnv" -}}
{{- $secret := include "lorapar.objectStoreSecret" . -}}
{{- if $secret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef:
      name: {{ $secret }}
      key: AWS_ACCESS_KEY_ID
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ $secret }}
      key: AWS_SECRET_ACCESS_KEY
{{- end }}
- name: AWS_REGION
  value: {{ .Values.objectStore.region | default "us-east-1" | quote }}
- name: AWS_DEFAULT_REGION
  value: {{ .Values.objectStore.region | default "us-east-1" | quote }}
{{- with include "lorapar.objectStoreEndpoint" . }}
- name: AWS_ENDPOINT_URL_S3
  value: {{ . | quote }}
{{- end }}
{{- with .Values.objectStore.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "lorapar.caMount" -}}
{{- if (fromJson (include "lorapar.ca" .)).name }}
- name: ca
  mountPath: /etc/lorapar/ca
  readOnly: true
{{- end }}
{{- end }}

{{- define "lorapar.caVolume" -}}
{{- $ca := fromJson (include "lorapar.ca" .) }}
{{- if $ca.name }}
- name: ca
  {{- if eq $ca.kind "secret" }}
  # Only the certificates: a Secret of cert-manager also has a private key.
  secret:
    secretName: {{ $ca.name }}
    items:
      - {key: {{ $ca.entry }}, path: {{ $ca.entry }}}
  {{- else }}
  configMap:
    name: {{ $ca.name }}
  {{- end }}
{{- end }}
{{- end }}

{{/* For pods that end by themselves: a writable folder, because the root is read-only. */}}
{{- define "lorapar.jobEnv" -}}
- name: PYTHONDONTWRITEBYTECODE
  value: "1"
- name: HOME
  value: /tmp
- name: TMPDIR
  value: /tmp
{{- end }}

{{/* (dict "root" $ "settings" SETTINGS) */}}
{{- define "lorapar.jobMounts" -}}
- name: tmp
  mountPath: /tmp
{{- include "lorapar.caMount" .root }}
{{- include "lorapar.extraMounts" . }}
{{- end }}

{{- define "lorapar.jobVolumes" -}}
- name: tmp
  emptyDir: {}
{{- include "lorapar.caVolume" .root }}
{{- include "lorapar.extraVolumes" . }}
{{- end }}

{{/* The development server's keys change with its name: pods that have read them from the Secret restart. */}}
{{- define "lorapar.keysAnnotation" -}}
{{- if and .Values.objectStore.development.enabled (not .Values.objectStore.existingSecret) }}
lorapar/object-store-keys: {{ include "lorapar.developmentKey" (list . "AWS_SECRET_ACCESS_KEY") | sha256sum | trunc 16 | quote }}
{{- end }}
{{- end }}

{{/* A key of the development server: (list $ NAME). Derived, not drawn, so that rendering twice gives the same with and
without a cluster; who may use this release's name and namespace for guessing is kept out by the NetworkPolicies. */}}
{{- define "lorapar.developmentKey" -}}
{{- $root := first . -}}
{{- printf "%s/%s/%s/%s" $root.Release.Namespace $root.Release.Name (include "lorapar.fullname" $root) (last .) | sha256sum | trunc 32 -}}
{{- end }}

{{/* The model hub, or that there is none. Caches of every library are on the volume `cache`. */}}
{{- define "lorapar.modelEnv" -}}
- name: HOME
  value: /cache
# Libraries look up the user's name, and a number assigned by a platform has none.
- name: USER
  value: lorapar
- name: LOGNAME
  value: lorapar
- name: TMPDIR
  value: /tmp
- name: LORAPAR_CACHE
  value: /cache/lorapar
- name: HF_HOME
  value: /cache/huggingface
- name: XDG_CACHE_HOME
  value: /cache
- name: VLLM_CACHE_ROOT
  value: /cache/vllm
- name: VLLM_CONFIG_ROOT
  value: /cache/vllm-config
- name: VLLM_NO_USAGE_STATS
  value: "1"
- name: HF_HUB_DISABLE_TELEMETRY
  value: "1"
{{- if .Values.airGapped }}
- name: HF_HUB_OFFLINE
  value: "1"
- name: TRANSFORMERS_OFFLINE
  value: "1"
{{- else }}
{{- with .Values.huggingFace.endpoint }}
- name: HF_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- with .Values.huggingFace.existingSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.Values.huggingFace.entry }}
{{- end }}
{{- end }}
{{- end }}

{{/* Volumes of a vLLM server: (dict "root" $ "settings" SETTINGS "claim" NAME); of its container that brings the model they
are others. */}}
{{- define "lorapar.modelMounts" -}}
- name: cache
  mountPath: /cache
- name: tmp
  mountPath: /tmp
- name: shm
  mountPath: /dev/shm
{{- if .root.Values.baseModels.existingClaim }}
- name: base-models
  mountPath: {{ .root.Values.baseModels.mountPath }}
  readOnly: true
{{- end }}
{{- include "lorapar.extraMounts" . }}
{{- end }}

{{- define "lorapar.modelVolumes" -}}
- name: cache
{{- if .settings.cache.existingClaim }}
  persistentVolumeClaim:
    claimName: {{ .settings.cache.existingClaim }}
{{- else if .settings.cache.persistent }}
  persistentVolumeClaim:
    claimName: {{ .claim }}
{{- else }}
  emptyDir:
    sizeLimit: {{ .settings.cache.size }}
{{- end }}
- name: tmp
  emptyDir: {}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ .settings.sharedMemory }}
{{- if .root.Values.baseModels.existingClaim }}
- name: base-models
  persistentVolumeClaim:
    claimName: {{ .root.Values.baseModels.existingClaim }}
    readOnly: true
{{- end }}
{{- include "lorapar.extraVolumes" . }}
{{- end }}

{{/* A claim for a server's cache: (dict "root" $ "settings" SETTINGS "claim" NAME "component" COMPONENT). */}}
{{- define "lorapar.cacheClaim" -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ .claim }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "lorapar.labels" . | nindent 4 }}
spec:
  accessModes: [{{ .settings.cache.accessMode }}]
  {{- with .settings.cache.storageClass }}
  storageClassName: {{ . | quote }}
  {{- end }}
  resources:
    requests:
      storage: {{ .settings.cache.size }}
{{- end }}

{{/* Requests and limits with the accelerator added: (dict of a server's settings). */}}
{{- define "lorapar.serverResources" -}}
{{- $resources := deepCopy (.resources | default dict) -}}
{{- if .acceleratorCount -}}
{{- $limits := merge (dict .accelerator (int .acceleratorCount)) ($resources.limits | default dict) -}}
{{- $resources = set $resources "limits" $limits -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end }}

{{/* Where a pod runs: (dict "root" $ "component" NAME "settings" SETTINGS "labels" MAP); what a server does not say holds
for all pods. A spread that names no pods is one of this component's, by what selects them. */}}
{{- define "lorapar.placement" -}}
{{- $own := .settings | default dict -}}
{{- with $own.nodeSelector | default .root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.affinity | default .root.Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations | default .root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $spread := list -}}
{{- range $own.topologySpreadConstraints | default .root.Values.topologySpreadConstraints -}}
{{- $labels := merge (fromYaml (include "lorapar.selectorLabels" $)) ($.labels | default dict) -}}
{{- $spread = append $spread (merge (deepCopy .) (ternary dict (dict "labelSelector" (dict "matchLabels" $labels)) (hasKey . "labelSelector"))) -}}
{{- end }}
{{- with $spread }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.priorityClassName | default .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $own.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Loading weights takes minutes: the startup probe waits for it, so the others can be strict. */}}
{{- define "lorapar.serverProbes" -}}
startupProbe:
  httpGet: {path: /health, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: {{ max 1 (div (int .startupSeconds) 10) }}
readinessProbe:
  httpGet: {path: /health, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 3
livenessProbe:
  httpGet: {path: /health, port: http}
  periodSeconds: 20
  timeoutSeconds: 10
  failureThreshold: 6
{{- end }}

{{/* Accelerators one copy of the model is spread over, or an error that names the setting: (dict "settings" … "where" …). */}}
{{- define "lorapar.tensorParallel" -}}
{{- $count := int .settings.acceleratorCount -}}
{{- $size := int .settings.tensorParallelSize | default (max 1 $count) -}}
{{- if and (gt $size 1) (gt $size $count) -}}
{{- fail (printf "%s.tensorParallelSize: %d accelerators are asked for, but %s.acceleratorCount gives %d" .where $size .where $count) -}}
{{- end -}}
{{- $size -}}
{{- end }}

{{/* A model that needs a download is refused where nothing may be downloaded: (dict "root" $ "model" … "where" …). */}}
{{- define "lorapar.checkModel" -}}
{{- if and .root.Values.airGapped (not (or (hasPrefix "/" .model) (hasPrefix "s3://" .model) (hasPrefix "builtin:" .model))) -}}
{{- fail (printf "%s: %q would be downloaded, and airGapped is true; name a path on baseModels or an s3:// address" .where .model) -}}
{{- end -}}
{{- if and (hasPrefix "/" .model) (hasPrefix .root.Values.baseModels.mountPath .model) (not .root.Values.baseModels.existingClaim) -}}
{{- fail (printf "%s: %q lies on baseModels, and baseModels.existingClaim is empty" .where .model) -}}
{{- end -}}
{{- end }}

{{/* Whether lorapar has to fetch the model, because vLLM cannot: a built-in one, or one in the object store. */}}
{{- define "lorapar.modelIsFetched" -}}
{{- if or (hasPrefix "builtin:" .) (hasPrefix "s3://" .) -}}yes{{- end -}}
{{- end }}

{{/* vLLM's --model for a model's name. */}}
{{- define "lorapar.enginePath" -}}
{{- ternary "/cache/base-model" . (eq "yes" (include "lorapar.modelIsFetched" .)) -}}
{{- end }}

{{/* The container that fetches it: (dict "root" $ "model" … "settings" SETTINGS). */}}
{{- define "lorapar.modelInit" -}}
{{- if include "lorapar.modelIsFetched" .model }}
initContainers:
  - name: model
    image: {{ include "lorapar.image" (dict "root" .root "image" "vllm") }}
    imagePullPolicy: {{ .root.Values.images.pullPolicy }}
    securityContext:
      {{- include "lorapar.containerSecurityContext" .root | nindent 6 }}
    command: [python, /scripts/fetch_model.py, {{ .model | quote }}, /cache/base-model]
    env:
      {{- include "lorapar.env" (dict "root" .root "own" (printf "%s\n%s" (include "lorapar.modelEnv" .root) (include "lorapar.objectStoreEnv" .root)) "last" .settings.extraEnv) | nindent 6 }}
    resources:
      {{- toYaml .settings.resources | nindent 6 }}
    volumeMounts:
      - name: cache
        mountPath: /cache
      - name: tmp
        mountPath: /tmp
      - name: scripts
        mountPath: /scripts
        readOnly: true
      {{- include "lorapar.caMount" .root | nindent 6 }}
      {{- include "lorapar.extraMounts" . | nindent 6 }}
{{- end }}
{{- end }}

{{/* What that container needs besides the server's volumes: (dict "root" $ "model" …). */}}
{{- define "lorapar.modelInitVolumes" -}}
{{- if include "lorapar.modelIsFetched" .model }}
- name: scripts
  configMap:
    name: {{ include "lorapar.fullname" .root }}-scripts
{{- end }}
{{- end }}
