{{/* The placement file as YAML: the user's, completed from the chart's other values. */}}
{{- define "lorapar.placement.pipeline" -}}
{{- $values := .Values -}}
{{- $placement := deepCopy ($values.pipeline.placement | default dict) -}}
{{- $_ := set $placement "image_pull_policy" ($placement.image_pull_policy | default $values.images.pullPolicy) -}}
{{- $pullSecrets := include "lorapar.pullSecrets" . | fromJsonArray -}}
{{- if and $pullSecrets (not $placement.image_pull_secrets) -}}
{{- $_ := set $placement "image_pull_secrets" $pullSecrets -}}
{{- end -}}
{{- $secret := include "lorapar.objectStoreSecret" . -}}
{{- if and $secret (not $placement.credentials_secret) -}}
{{- $_ := set $placement "credentials_secret" $secret -}}
{{- end -}}
{{- $user := include "lorapar.user" . -}}
{{- if and (ne $user "10001") (not (hasKey $placement "user")) -}}
{{- $_ := set $placement "user" (ternary nil (int64 ($user | default "0")) (eq $user "")) -}}
{{- end -}}
{{- $ca := fromJson (include "lorapar.ca" .) -}}
{{- if and $ca.name (not $placement.ca_bundle) -}}
{{- $_ := set $placement "ca_bundle" (dict $ca.kind $ca.name "entry" $ca.entry) -}}
{{- end -}}
{{- $env := dict -}}
{{- range concat (.Values.objectStore.extraEnv | default list) (.Values.extraEnv | default list) -}}
{{- $from := .valueFrom | default dict -}}
{{- if $from.secretKeyRef -}}
{{- $_ := set $env .name (dict "secret" $from.secretKeyRef.name "key" $from.secretKeyRef.key "optional" ($from.secretKeyRef.optional | default false)) -}}
{{- else if $from.configMapKeyRef -}}
{{- $_ := set $env .name (dict "config_map" $from.configMapKeyRef.name "key" $from.configMapKeyRef.key "optional" ($from.configMapKeyRef.optional | default false)) -}}
{{- else -}}
{{- if and .value (or (regexMatch "(SECRET|PASSWORD|PASSWD|TOKEN|API_KEY|ACCESS_KEY|PRIVATE_KEY)$" (upper .name)) (regexMatch "://[^/@]*:[^/@]*@" .value)) -}}
{{- fail (printf "extraEnv: %s looks like a secret, and the compiled pipeline can be read by many; give it by valueFrom.secretKeyRef" .name) -}}
{{- end -}}
{{- $_ := set $env .name (.value | default "") -}}
{{- end -}}
{{- end -}}
{{- with merge dict ($placement.env | default dict) $env -}}
{{- $_ := set $placement "env" . -}}
{{- end -}}
{{- with merge dict ($placement.labels | default dict) ($values.podLabels | default dict) ($values.commonLabels | default dict) -}}
{{- $_ := set $placement "labels" . -}}
{{- end -}}
{{- with merge dict ($placement.annotations | default dict) ($values.podAnnotations | default dict) -}}
{{- $_ := set $placement "annotations" . -}}
{{- end -}}
{{- $groups := $placement.groups | default dict -}}
{{- /* A stage's own group hides `others`, so additions start from `others`. */ -}}
{{- $others := $groups.others | default dict -}}
{{- $queued := ternary (list "vote" "score" "sft" "rl" "evaluate") list $values.pipeline.kueue.enabled -}}
{{- $reading := ternary (list "plan" "vote" "init" "score" "sft" "rl" "publish" "evaluate") list (ne "" $values.baseModels.existingClaim) -}}
{{- range $stage := concat $queued $reading | uniq -}}
{{- $group := get $groups $stage | default $others | deepCopy -}}
{{- if and (has $stage $queued) (not $group.queue) -}}
{{- $_ := set $group "queue" $values.pipeline.kueue.localQueue -}}
{{- end -}}
{{- if and (has $stage $reading) (not $group.models) -}}
{{- $_ := set $group "models" (dict "claim" $values.baseModels.existingClaim) -}}
{{- end -}}
{{- $_ := set $groups $stage $group -}}
{{- end -}}
{{- if $groups -}}
{{- $_ := set $placement "groups" $groups -}}
{{- end -}}
{{- toYaml $placement -}}
{{- end }}

{{/* The input of upload_pipeline.py, as JSON. */}}
{{- define "lorapar.recurring" -}}
{{- $parameters := dict "store" .Values.objectStore.address -}}
{{- with .Values.objectStore.registry -}}
{{- $_ := set $parameters "registry" . -}}
{{- end -}}
{{- $settings := dict "owner" (printf "helm release %s/%s" .Release.Namespace .Release.Name) "service_account" (include "lorapar.runnerServiceAccount" .) "parameters" $parameters "runs" (.Values.pipeline.recurring | default list) -}}
{{- with (.Values.pipeline.placement | default dict).plugins -}}
{{- $_ := set $settings "plugins" . -}}
{{- end -}}
{{- $settings | toPrettyJson -}}
{{- end }}
